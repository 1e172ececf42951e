"""An MCP server with one tool, on standard input and output."""

from mcp.server import MCPServer

server = MCPServer("tools")


@server.tool()
def count(text: str) -> int:
    """The number of words of a text."""
    return len(text.split())


if __name__ == "__main__":
    server.run()
