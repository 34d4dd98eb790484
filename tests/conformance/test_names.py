"""Names: what they may hold, and how long."""

from __future__ import annotations

import pytest
from tests.conformance.cases import Case, cases
from tests.conformance.places import Both

CASES = cases(
    "names",
    r"""
names of every kind
    create "with a blank" 0644 1
    create a\x0ab 0644 2
    create 'back\slash' 0644 3
    create 'quote"s' 0644 4
    create -x 0644 5
    create ... 0644 6
    create Übersicht 0644 7
    create '*?[]' 0644 8
    create "☔ 雨" 0644 9
    create "e\u0301" 0644 10
    ls
    get "with a blank"          -> b'1'
    get 'back\slash'            -> b'3'
    get ...                     -> b'6'
    get "☔ 雨"                  -> b'9'
    unlink a\x0ab
    rename '*?[]' "?"
    ls

upper and lower case are two names
    create f 0644 1
    create F 0644 2
    get f                       -> b'1'
    get F                       -> b'2'

bytes that are no UTF-8
    create \xff 0644 text
    get \xff                    -> b'text'

the length of a name
    statvfs namemax             -> 255

a path of more than 1024 characters
    mkdir x*200
    chdir x*200
    mkdir x*200
    chdir x*200
    mkdir x*200
    chdir x*200
    mkdir x*200
    chdir x*200
    mkdir x*150
    chdir x*150
    create y*100 0644 text
    get y*100

dots on the way
    mkdir d
    create d/f 0644 text
    get ./d/../d/./f            -> b'text'
    stat d/.. type              -> d
    same . d/..                 -> same
    get d//f                    -> b'text'

many in one directory
    mkdir d
    create d/a
    mkdir d/b
    create d/c
    ls d                        -> a b c
    h = opendir d
    create d/e
    unlink d/a
    ls h                        -> b c e

the name of the control directory, at the top
    mkdir ../.jobfs
    create ../.jobfs/f
    unlink ../.jobfs/f
    rmdir ../.jobfs

the name of the control directory, elsewhere
    mkdir .jobfs
    create .jobfs/f 0644 text
    ls                          -> .jobfs
    get .jobfs/f                -> b'text'

a name of the form that saves under way have
    create .jobfs-0123456789ab-0123456789abcdef-staged-f
    mkdir .jobfs-0123456789ab-0123456789abcdef-aside-f
    create f
    rename f .jobfs-0123456789ab-0123456789abcdef-aside-g

a name that merely begins like that
    create .jobfs-f 0644 text
    ls                          -> .jobfs-f
    get .jobfs-f                -> b'text'
""",
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_names_are_as_on_a_disk(both: Both, case: Case) -> None:
    both.compare(case)
