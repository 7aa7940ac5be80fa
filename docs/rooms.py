"""Draws the rooms and who imports whom: `python docs/rooms.py` writes docs/pictures/rooms.svg.

Read from the imports of the code and from the order that tests/project/test_rooms.py holds the code to.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "pictures" / "rooms.svg"
CELL, LEFT, TOP = 22, 130, 96
INK, MARK, GRID = "#1e293b", "#c2410c", "#e2e8f0"


def order() -> tuple[str, ...]:
    """Return the rooms from the lowest to the highest."""
    tree = ast.parse((ROOT / "tests" / "project" / "test_rooms.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ORDER":
            return ast.literal_eval(node.value)
    raise LookupError("tests/project/test_rooms.py has no ORDER")


def imports() -> dict[str, set[str]]:
    """Return room → the other rooms that it imports, at once or late."""
    rooms = order()
    graph: dict[str, set[str]] = {room: set() for room in rooms}
    for path in sorted((ROOT / "steer_tools").rglob("*.py")):
        room = path.relative_to(ROOT / "steer_tools").parts[0].removesuffix(".py")
        if room not in graph:
            continue  # The package's own table of contents names every room.
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            graph[room] |= {name for name in _rooms_of(node) if name in graph and name != room}
    return graph


def draw(graph: dict[str, set[str]]) -> str:
    """Return the picture: a row imports from the columns that are marked in it."""
    rooms = list(graph)
    side = CELL * len(rooms)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + side + 16} {TOP + side + 40}"'
        f' font-family="system-ui, sans-serif" font-size="13" fill="{INK}">',
        "<title>Which room imports from which</title>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    for row, room in enumerate(rooms):
        y = TOP + row * CELL
        x = LEFT + row * CELL + CELL / 2
        parts.append(f'<text x="{LEFT - 8}" y="{y + 15}" text-anchor="end">{room}</text>')
        parts.append(f'<text transform="translate({x + 4} {TOP - 8}) rotate(-55)">{room}</text>')
        marked = [column for column, other in enumerate(rooms) if other in graph[room]]
        parts += [
            f'<rect x="{LEFT + column * CELL}" y="{y}" width="{CELL}" height="{CELL}" fill="{fill}"/>'
            for column, fill in [*((column, MARK) for column in marked), (row, INK)]
        ]
    for line in range(len(rooms) + 1):
        at = line * CELL
        parts.append(f'<path d="M{LEFT} {TOP + at}h{side}M{LEFT + at} {TOP}v{side}" stroke="{GRID}"/>')
    parts.append(
        f'<text x="{LEFT}" y="{TOP + side + 26}">A room (row) imports from the marked ones, all above it.</text>'
    )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _rooms_of(node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names=names):
            dotted = [alias.name for alias in names]
        case ast.ImportFrom(module="steer_tools", names=names):
            dotted = [f"steer_tools.{alias.name}" for alias in names]
        case ast.ImportFrom(module=str(module), level=0):
            dotted = [module]
        case _:
            dotted = []
    return [name.split(".")[1] for name in dotted if name.startswith("steer_tools.")]


if __name__ == "__main__":
    PICTURE.write_text(draw(imports()), encoding="utf-8")
