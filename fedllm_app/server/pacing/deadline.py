"""Over-selection with a deadline: ask more than are needed, and step on the first that answer.

Bonawitz et al. 2019 (arXiv 1902.01046, section 4.2) ask 1.3 times the goal, so that devices which
are slow or drop out hold up nothing. What comes later is dropped as late. The price is the work of
those that were late, and a model that has seen less of the data of slow devices.
"""

from dataclasses import dataclass

from fedllm_app.server.intake import Intake
from fedllm_app.server.pacing.rounds import Rounds


@dataclass(frozen=True, kw_only=True)
class Deadline(Rounds):
    """Every round closes at the first n replies, or at its time.

    Attributes
    ----------
    clients : accepted replies that close a round; more than those are asked.
    lasts_s : seconds after which a round closes, 0 for no such limit.
    """

    clients: int
    lasts_s: float = 0.0
    ordered: bool = True

    @property
    def about(self) -> str:
        """Say who is asked, and when the server steps."""
        lasts = f", for at most {self.lasts_s:g} s" if self.lasts_s else ""
        return f"{self.asked} a round, of which the first {self.clients} count{lasts}"

    def most(self, asked: int) -> int:
        """Return the replies that close a round, or all that are asked where they are fewer."""
        return min(asked, self.clients)

    def wanted(self, intake: Intake) -> int:
        """Return how many of the first n have not come."""
        return self.clients - len(intake.accepted)
