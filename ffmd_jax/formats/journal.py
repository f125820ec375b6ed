"""A file that changes all at once: what is written since the last commit is not in it, wherever a process is killed.

HDF5 writes its index in pieces; a process that is killed between two of them leaves a file that nobody can open.
Here pages that change are kept in memory.  A commit writes them to a journal beside the file, gives the journal its
name, copies them into the file and removes the journal.  Who finds a journal reads its pages instead of the file's.
"""

import errno
import io
import os
import zlib
from pathlib import Path

try:
    import fcntl
except ImportError:  # no such locks on Windows
    fcntl = None

_PAGE = 1 << 14
_MAGIC = b"ffmdjrn1"


def journal_of(path: Path) -> Path:
    """Where the journal of a file is."""
    return path.with_name(path.name + ".journal")


class JournaledFile(io.RawIOBase):
    """A file object for `h5py.File`; nothing reaches the disk before `commit`.

    Args:
        path: the file.
        mode: "r", "r+", "w" (replaces) or "x" (must not exist).

    Raises:
        BlockingIOError: another process is writing the file.
    """

    def __init__(self, path: Path, mode: str):
        self._path, self._writes = path, mode != "r"
        flags = {
            "r": os.O_RDONLY,
            "r+": os.O_RDWR,
            "w": os.O_RDWR | os.O_CREAT,
            "x": os.O_RDWR | os.O_CREAT | os.O_EXCL,
        }
        self._file = os.open(path, flags[mode] | getattr(os, "O_BINARY", 0), 0o666)
        self._pages: dict[int, bytearray] = {}
        self._place = 0
        try:
            if fcntl is not None and self._writes:
                # Not flock, which HDF5 takes for reading: what is written so far may be read.
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._size = os.fstat(self._file).st_size
            self._start(mode)
        except BaseException:
            os.close(self._file)
            raise

    def _start(self, mode: str) -> None:
        if mode in ("w", "x"):
            journal_of(self._path).unlink(missing_ok=True)
            os.ftruncate(self._file, 0)
            self._size = 0
        elif (found := _read_journal(journal_of(self._path))) is not None:
            self._size, self._pages = found
            if self._writes:
                self._apply()

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return self._writes

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        return self._place

    def readinto(self, buffer) -> int:
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._size - self._place))
        for page, inside, within in _pieces(self._place, count):
            view[within] = self._page(page)[inside]
        self._place += count
        return count

    def write(self, data) -> int:
        view = memoryview(data).cast("B")
        for page, inside, within in _pieces(self._place, len(view)):
            if page not in self._pages:
                self._pages[page] = bytearray(self._page(page))
            self._pages[page][inside] = view[within]
        self._place += len(view)
        self._size = max(self._size, self._place)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        self._size = self._place if size is None else size
        return self._size

    def _page(self, page: int) -> bytes | bytearray:
        """A whole page, zeros beyond the end of the file."""
        if page in self._pages:
            return self._pages[page]
        return os.pread(self._file, _PAGE, page * _PAGE).ljust(_PAGE, b"\0")

    def commit(self) -> None:
        """Makes the file what was written, as a whole."""
        if not self._pages and os.fstat(self._file).st_size == self._size:
            return
        content = b"".join(page.to_bytes(8, "little") + bytes(data) for page, data in self._pages.items())
        content = self._size.to_bytes(8, "little") + content
        partial = self._path.with_name(self._path.name + ".partial-journal")
        try:
            with open(partial, "wb") as file:
                file.write(_MAGIC + zlib.crc32(content).to_bytes(4, "little") + content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, journal_of(self._path))
            self._apply()
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise OSError(error.errno, f"{self._path} cannot be written: {error.strerror}") from error

    def _apply(self) -> None:
        for page, data in sorted(self._pages.items()):
            if os.pwrite(self._file, data, page * _PAGE) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.ftruncate(self._file, self._size)
        os.fsync(self._file)
        journal_of(self._path).unlink(missing_ok=True)
        self._pages = {}

    def close(self) -> None:
        """Closes the file; what was not committed is lost."""
        if not self.closed:
            os.close(self._file)
        super().close()


def _pieces(start: int, count: int):
    """(page, slice within the page, slice within the data) of ``count`` bytes from ``start``."""
    done = 0
    while done < count:
        page, offset = divmod(start + done, _PAGE)
        length = min(_PAGE - offset, count - done)
        yield page, slice(offset, offset + length), slice(done, done + length)
        done += length


def _read_journal(path: Path) -> tuple[int, dict[int, bytearray]] | None:
    """File size and pages of a journal; None if there is none.

    Raises:
        ValueError: a damaged journal.
    """
    if not path.is_file():
        return None
    stored = path.read_bytes()
    content = stored[12:]
    if stored[:8] != _MAGIC or zlib.crc32(content) != int.from_bytes(stored[8:12], "little"):
        raise ValueError(f"{path} is damaged")
    record = 8 + _PAGE
    starts = range(8, len(content), record)
    pages = {int.from_bytes(content[i : i + 8], "little"): bytearray(content[i + 8 : i + record]) for i in starts}
    return int.from_bytes(content[:8], "little"), pages
