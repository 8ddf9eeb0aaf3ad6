"""What one process has itself granted and counted, for as long as nobody else is sure to know.

Redis may forget; what this process told its askers must hold all the same.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import NamedTuple

from mailtape.domain.ids import OrganisationId
from mailtape.ports.counters import Key

_MOST = 100_000


class Grant(NamedTuple):
    """One recipient of one transaction."""

    organisation_id: OrganisationId
    key: Key
    """As it was asked about last."""
    digest: bytes
    """The name that it is held under."""
    octets: int
    until_us: int
    committed: bool
    at_us: int = 0
    """When it was granted or committed."""


class OwnGrants:
    """Grants by digest; bounded, the oldest is forgotten first."""

    def __init__(self) -> None:
        self._grants: OrderedDict[bytes, Grant] = OrderedDict()
        self._of: dict[OrganisationId, dict[bytes, Grant]] = {}
        """The same, for each organisation that has any."""
        self._committed: deque[tuple[int, bytes]] = deque(maxlen=_MOST)
        """When, and what; in that order."""

    def add(self, grants: Iterable[Grant], now_us: int) -> None:
        """Remember these, each over what was known of it; forget what has run out."""
        for grant in grants:
            self._forget(grant.digest)
            self._grants[grant.digest] = grant
            self._of.setdefault(grant.organisation_id, {})[grant.digest] = grant
            if grant.committed:
                self._committed.append((grant.at_us, grant.digest))
        while self._grants:
            oldest = next(iter(self._grants.values()))
            if oldest.until_us > now_us and len(self._grants) <= _MOST:
                return
            self._forget(oldest.digest)

    def drop(self, digests: Iterable[bytes]) -> None:
        """Forget reservations that were given back; what is committed stays."""
        for digest in digests:
            grant = self._grants.get(digest)
            if grant is not None and not grant.committed:
                self._forget(digest)

    def settle(self, before_us: int) -> None:
        """Forget what was committed before that: its mail is stored."""
        while self._committed and self._committed[0][0] < before_us:
            at_us, digest = self._committed.popleft()
            grant = self._grants.get(digest)
            if grant is not None and grant.committed and grant.at_us == at_us:
                self._forget(digest)

    def of(self, organisation_id: OrganisationId, now_us: int) -> list[Grant]:
        """List what still counts for an organisation."""
        own = self._of.get(organisation_id, {})
        return [grant for grant in own.values() if grant.until_us > now_us]

    def organisations(self, now_us: int) -> set[OrganisationId]:
        """Name all for whom something counts."""
        return {each for each in self._of if self.of(each, now_us)}

    def _forget(self, digest: bytes) -> None:
        grant = self._grants.pop(digest, None)
        if grant is not None:
            own = self._of[grant.organisation_id]
            del own[digest]
            if not own:
                del self._of[grant.organisation_id]
