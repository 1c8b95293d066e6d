"""Packs what a boost-tuning made into few files of limited size: some machines give back no more.

python -m benchmarks.boost_export pack /tmp/boost $OUT --ssm 1    # figures, and one SSM in pieces
python -m benchmarks.boost_export join FOLDER ssms                # behind it, where they arrive
"""

from __future__ import annotations

import argparse
import hashlib
import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

PIECE_BYTES = 15 << 20
FIGURES = ("report.json", "loss.json", "loss.png")


def pack(out: Path, target: Path, ssm: int) -> list[Path]:
    """Write the figures, and an SSM's folder as a tar archive in pieces.

    Args:
        out: folder of the boost-tuning.
        target: where to.
        ssm: its number; 0: figures alone.

    Returns:
        The files.
    """
    target.mkdir(parents=True, exist_ok=True)
    files = []
    for name in FIGURES:
        if (out / name).is_file():
            files.append(target / name)
            files[-1].write_bytes((out / name).read_bytes())
    if not ssm:
        return files
    folder = out / f"ssm-{ssm}"
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as archive:
        archive.add(folder, folder.name)
    data = memory.getvalue()
    digest = hashlib.sha256(data).hexdigest()[:16]
    for number, start in enumerate(range(0, len(data), PIECE_BYTES)):
        files.append(target / f"{folder.name}.{digest}.{number:02}")
        files[-1].write_bytes(data[start : start + PIECE_BYTES])
    return files


def join(source: Path, target: Path) -> list[Path]:
    """Unpack every SSM whose pieces are in a folder.

    Returns:
        The SSMs' folders.

    Raises:
        ValueError: pieces that are not what was packed.
    """
    names = sorted({path.name.rsplit(".", 1)[0] for path in source.glob("ssm-*.*.[0-9][0-9]")})
    for name in names:
        data = b"".join(path.read_bytes() for path in sorted(source.glob(f"{name}.[0-9][0-9]")))
        if hashlib.sha256(data).hexdigest()[:16] != name.rsplit(".", 1)[1]:
            raise ValueError(f"{source / name}: expected all of its pieces, found others")
        folder = target / name.split(".")[0]
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:  # the files of one folder
                if content := archive.extractfile(member):
                    (folder / Path(member.name).name).write_bytes(content.read())
    return [target / name.split(".")[0] for name in names]


def main(argv: Sequence[str] | None = None) -> None:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("pack", "join"):
        command = commands.add_parser(name)
        command.add_argument("source", type=Path)
        command.add_argument("target", type=Path)
        if name == "pack":
            command.add_argument("--ssm", type=int, default=0, help="its number; 0: figures alone")
    args = parser.parse_args(argv)
    if args.command == "pack":
        done = pack(args.source, args.target, args.ssm)
    else:
        done = join(args.source, args.target)
    for path in done:
        print(path)


if __name__ == "__main__":
    main()
