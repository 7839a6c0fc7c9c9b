"""Names that a module may have in a hub: its folder can be copied to every file system and told from others."""

import unicodedata

from headstart.errors import HubError

__all__ = ["ANOTHER", "check_name", "folded", "twin_key"]

ANOTHER = "choose another name (--name, or name= in Python)"
"""The remedy for a name that a module cannot have."""

MAX_NAME_BYTES = 200
"""Staging adds a prefix and a suffix to the name, and file systems allow 255 bytes."""

RESERVED = frozenset(
    {"con", "prn", "aux", "nul", "conin$", "conout$"}
    | {f"{port}{number}" for port in ("com", "lpt") for number in "0123456789¹²³"}
)
"""Names of Windows devices, which no file there can have, with any suffix."""

LOOKALIKES = str.maketrans(
    "авеѕіјкмнорсԁтухһӏԛԝ" + "αβεηικμνορτυχγ",
    "abesijkmhopcdtyxhlqw" + "abenikmvoptuxy",
)
"""Cyrillic and Greek small letters that look like Latin ones, or whose capitals do."""

SAME_SHAPE = frozenset("аеѕіјорсԁухһӏԛԝοАВЕЅІЈКМНОРСТУХԚԜΑΒΕΖΗΙΚΜΝΟΡΤΥΧ")
"""The letters that nobody can tell from Latin ones: next to Latin letters, they are a mistake or a trick."""


def check_name(name: str) -> None:
    """Raise `HubError` unless `name` can be a module's folder on every file system.

    It also refuses letters that can be written in two ways (decomposed "é"), which some file systems treat as the same
    name and others do not, and Cyrillic or Greek letters that look like Latin ones next to Latin ones.
    """
    if (
        not name
        or name != name.strip()
        or name.startswith(".")
        or name.endswith(".")
        or set(name) & set('/\\:*?"<>|')
        or not name.isprintable()
    ):
        raise HubError(
            f"{name!r} cannot be a module's name: it must not be empty, begin or end with a dot or a space, "
            f'or hold one of / \\ : * ? " < > |; {ANOTHER}'
        )
    if len(name.encode(errors="surrogatepass")) > MAX_NAME_BYTES:
        raise HubError(f"the module name '{name[:40]}…' is longer than {MAX_NAME_BYTES} bytes; choose a shorter one")
    if name.partition(".")[0].rstrip().casefold() in RESERVED:
        raise HubError(f"'{name}' cannot be a module's name: Windows keeps it for a device; {ANOTHER}")
    if not unicodedata.is_normalized("NFC", name):
        raise HubError(
            f"{name!a} cannot be a module's name: its letters are decomposed; write it in Unicode's form NFC, "
            f"as '{unicodedata.normalize('NFC', name)}'"
        )
    _refuse_lookalikes(name)


def twin_key(name: str) -> str:
    """A key that is equal for names that some file system, or a reader, takes for the same."""
    return folded(name).translate(LOOKALIKES)


def folded(text: str) -> str:
    """The text as a search compares it: case, and composed or decomposed letters, make no difference."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _refuse_lookalikes(name: str) -> None:
    odd = next((letter for letter in name if letter in SAME_SHAPE), None)
    if odd is not None and any("a" <= letter <= "z" for letter in name.casefold()):
        script = unicodedata.name(odd).partition(" ")[0].capitalize()
        raise HubError(
            f"'{name}' cannot be a module's name: it mixes Latin letters with the {script} '{odd}', which looks like "
            "one of them; write it in one script"
        )
