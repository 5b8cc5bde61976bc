"""Lists of septuplets: the files that name the clips of a training set."""

from pathlib import Path

FRAMES = 7
LIST_NAME = "189_vime7_train.txt"
LIST_NAMES = ("sep_trainlist.txt", LIST_NAME)
# A list of Vimeo-90K's 64,612 clips has 0.7 MB; more than this is not a list.
MAX_LIST_BYTES = 2**25
MAX_NAMES = 2**19  # in a list: a folder is looked for in 0.1 ms


def read_list(path):
    """Names of clips in a list file: one per line, spaces around them and blank lines left out.

    Arguments:
        path: text file in UTF-8, with or without byte order mark, with any line ends.

    Returns:
        list of str, perhaps empty.

    Raises:
        ValueError: no text, too large, or more than MAX_NAMES.
        FileNotFoundError: no such file.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: not a regular file; give a list of clip names")
    with path.open("rb") as file:
        content = file.read(MAX_LIST_BYTES + 1)
    if len(content) > MAX_LIST_BYTES:
        raise ValueError(f"{path}: larger than {MAX_LIST_BYTES} bytes; give a list of clip names")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from error
    names = [line.strip() for line in text.replace("\r", "\n").split("\n")]
    names = [name for name in names if name]
    if len(names) > MAX_NAMES:
        raise ValueError(f"{path}: {len(names)} names, over the limit of {MAX_NAMES}; split it")
    return names
