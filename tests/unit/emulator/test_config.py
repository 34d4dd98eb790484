from __future__ import annotations

from typing import Any

import pytest

from jobfs.emulator import EmulatorConfig
from jobfs.errors import UsageError


@pytest.mark.parametrize(
    "values", [{"jobs": ("short",)}, {"key": ""}, {"key": "two words"}, {"key": "schlüssel"}, {"port": 70000}]
)
def test_what_cannot_be_served_is_one_sentence(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as refusal:
        EmulatorConfig(**values)
    assert "\n" not in str(refusal.value)
