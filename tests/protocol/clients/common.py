"""The line protocol of PROTOCOL.md for the Python clients."""
import asyncio
import sys


def say(*fields):
    print("\t".join(str(f) for f in fields), flush=True)


async def commands():
    """The lines of standard input, split."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield line.decode().rstrip("\n").split("\t")
