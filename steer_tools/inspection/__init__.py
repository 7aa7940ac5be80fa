"""What a vector means and does, and which parts and tokens a behaviour needs. It must not know tools or files."""
