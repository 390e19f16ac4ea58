"""Version of the package, and how its extras are installed; imports no other module of it."""

__version__ = "0.1.0"
#: Name on the package index, of .ci/owner.toml; "": on none.
INDEX = ""


def install_command(extra: str) -> str:
    """The command that installs the packages of an extra.

    From the checkout where there is one, or from the package index; else by the packages' own
    names.
    """
    import re
    from importlib.metadata import PackageNotFoundError, requires
    from pathlib import Path

    root = Path(__file__).resolve().parents[1]
    if (root / "pyproject.toml").is_file():
        return f'pip install -e "{root}[{extra}]"'
    if INDEX:
        return f'pip install "{INDEX}[{extra}]"'
    try:
        lines = requires("numadam") or []
    except PackageNotFoundError:  # only its files were copied
        lines = []
    named = re.compile(rf"extra == ['\"]{extra}['\"]")
    packages = [line.partition(";")[0].strip() for line in lines if named.search(line)]
    if not packages:
        return f"install the packages of its extra {extra}"
    return " ".join(["pip install", *(f'"{package}"' for package in packages)])
