"""Download files completely or not at all: with retries, resumption, a check by hash, and atomic unpacking."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import shutil
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from pathlib import Path

from nesa.datasets.source import ProgressCallback
from nesa.errors import DataError

TRIES = 3
PAUSE = 0.5  # seconds before the second try; doubled for each further one
TIMEOUT = 15.0  # seconds without a byte
BLOCK = 1 << 18
RETRIED = (OSError, http.client.HTTPException)  # URLError, HTTPError, time-outs and resets are OSErrors


def fetch(urls: tuple[str, ...], target: Path, md5: str, progress: ProgressCallback) -> Path:
    """Download ``target`` from the first of ``urls`` that has it, unless it is there with the right hash.

    What a failed try received is in a .part file until the last try; the next try requests the rest.

    Raises DataError with every url and what it answered; then no file is left behind.
    """
    if target.is_file() and _md5(target) == md5:
        return target
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    answers = []
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for url in urls:
            answer = ""
            for attempt in range(TRIES):
                if attempt:
                    time.sleep(PAUSE * 2 ** (attempt - 1))
                try:
                    _stream(url, part, progress)
                except RETRIED as error:
                    answer = f"{url}: {getattr(error, 'reason', None) or error or type(error).__name__}"
                    if isinstance(error, urllib.error.HTTPError):
                        answer = f"{url}: HTTP {error.code} {error.reason}"
                        if error.code == 416:  # what we have is no beginning of the file
                            part.unlink(missing_ok=True)
                        if error.code in (401, 403, 404, 410):  # another try would have the same answer
                            break
                    continue
                if _md5(part) == md5:
                    part.replace(target)
                    return target
                answer = f"{url}: the file has another MD5 than {md5}"
                part.unlink()
            answers.append(answer)
        raise DataError(f"cannot download {target.name}: {'; '.join(answers)}")
    except OSError as error:
        raise DataError(f"cannot download {target.name} into {target.parent}: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def _stream(url: str, part: Path, progress: ProgressCallback) -> None:
    """Append to ``part`` what ``url`` has beyond it. Raises IncompleteRead when the connection ends early."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(
        url, headers={"User-Agent": "nesa"} | ({"Range": f"bytes={have}-"} if have else {})
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        if have and response.status != 206:  # this server starts again from the beginning
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with part.open("ab" if have else "wb") as file:
            while block := response.read(BLOCK):
                file.write(block)
                have += len(block)
                progress(f"downloading {url}", have, total)
    if total is not None and have < total:
        raise http.client.IncompleteRead(b"", total - have)


def unpack_tar(archive: Path, folder: Path, inner: str) -> Path:
    """Unpack the folder ``inner`` of a .tar.gz as ``folder``/``inner``; members that leave it are refused.

    Raises DataError when the archive is damaged, holds no such folder, or has a member that leaves it.
    """
    fresh = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=folder))
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(fresh, filter="data")
        if not (fresh / inner).is_dir():
            raise DataError(f"{archive}: there is no folder {inner} inside")
        shutil.rmtree(folder / inner, ignore_errors=True)
        (fresh / inner).rename(folder / inner)
    except tarfile.FilterError as error:
        raise DataError(
            f"{archive}: refused, because a file in it would be written outside its folder: {error}"
        ) from error
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{archive}: the archive cannot be unpacked: {error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder / inner


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def unpack_gzip(packed: Path) -> Path:
    """Unpack NAME.gz atomically as NAME beside it. Raises DataError when it is damaged."""
    target = packed.with_suffix("")
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with gzip.open(packed) as source, fresh.open("wb") as file:
            shutil.copyfileobj(source, file)
        fresh.replace(target)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{packed}: the file cannot be unpacked: {error}") from error
    finally:
        fresh.unlink(missing_ok=True)
    return target
