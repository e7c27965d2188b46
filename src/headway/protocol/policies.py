"""The policies of a run on its clients: how many a round waits for, and who is left out for a while."""

from headway.protocol.quorum import Quorum as Quorum
from headway.protocol.reputation import Reputation as Reputation
