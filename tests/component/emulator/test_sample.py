from __future__ import annotations

from jobfs.emulator import JobSide, Server
from jobfs.emulator.sample import seed_sample


def test_the_sample_has_what_a_client_must_cope_with(server: Server) -> None:
    count = seed_sample(server.store)
    items = server.store.items()
    tree = server.store.tree()
    assert (count, len(items)) == (len(items), count)
    assert 40 < len(tree) < 99
    assert any(item.permission == "readOnly" for item in items)
    assert {item.lifecycle for item in items} == {"application", "expertJob"}
    assert [item.lifecycle for item in server.store.at("config/settings.json")] == [
        "application",
        "expertJob",
    ]
    assert any(1 << 20 < len(content) < 2 << 20 for content in tree.values() if content)
    assert any(not path.isascii() for path in tree)
    assert b"" in tree.values()
    assert tree["scratch/empty directory"] is None


def test_a_workspace_with_items_is_left_alone(server: Server) -> None:
    side: JobSide = server.store
    side.write("mine", "")
    assert seed_sample(side) == 1
