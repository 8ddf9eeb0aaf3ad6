"""Storing what was understood, where it is much."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from installation import Installation
from mailtape.ports.bodies import Body
from mailtape.services import processing
from mailtape.stores.sqlite_bodies import SqliteBodies
from postroom import a_mail, deliver

MIB = 2**20
OCTETS = MIB // 8
"""Of one mail; what is understood of it may be twice as much."""


@dataclass
class Watched:
    """Bodies of which it is noted how much of them is kept at a time."""

    bodies: SqliteBodies
    kept: list[int]

    async def keep(self, bodies: Sequence[Body]) -> None:
        blobs = [blob for body in bodies for blob in (body.raw, body.content)]
        self.kept.append(sum(len(blob.zstd) for blob in blobs))
        await self.bodies.keep(bodies)

    def __getattr__(self, name: str) -> object:
        return getattr(self.bodies, name)


async def test_bodies_of_many_organisations_are_kept_a_few_at_a_time(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processing, "_KEPT_AT_ONCE", MIB)
    assert isinstance(installation.parts.bodies, SqliteBodies)
    watched = Watched(installation.parts.bodies, [])
    installation.parts = replace(installation.parts, bodies=watched)  # type: ignore[arg-type]
    raw = a_mail() + random.Random(1).randbytes(OCTETS)
    first, *others = [await installation.an_organisation(f"org-{n}") for n in range(5)]

    await deliver(
        installation, first, raw, strangers=[("qa@mail.example.com", other) for other in others]
    )

    assert 1 < len(watched.kept) < 5
    assert max(watched.kept) <= MIB
    assert sum(watched.kept) > 5 * OCTETS
    keys = await watched.bodies.keys(None, 10)
    assert {key.organisation_id for key in keys} == {first, *others}
