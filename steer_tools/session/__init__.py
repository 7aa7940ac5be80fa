"""One step each of the main job on the session's model: load, place, compare, prove. It must not know tools or MCP."""
