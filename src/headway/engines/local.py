"""The Local engine: clients in this process, one at a time or in batches."""

from __future__ import annotations

from typing import ClassVar, Literal, final

from headway.engines.autotune.execution_plan import PlanConstraints
from headway.engines.grouping import GROUP
from headway.engines.planned_engine import PlannedEngine
from headway.engines.planned_execution import ExecutionOptions
from headway.model.device import Device
from headway.protocol.messages import Answer, Ask


@final
class LocalEngine(PlannedEngine):
    """Simple and exact: what fails, fails here, under your debugger, with the client, the stage and its inputs.

    drift: whether to measure how far the clients, and the steps within each, pull apart in every round (never of
        a protected chain).
    lanes: how many clients train side by side as one batched program; where they cannot, `sequential_reason` is the
    reason,
        and they train one at a time.  The numbers agree to rounding.  "auto" measures, when the engine opens, how many
        lanes and threads are fastest here, and what is left open below; `measured_plan` holds the result.
    low_rank: whether batches of clients never write their large linear layers (`headway.vectorized.low_rank`), without
        drift and where no stage looks at a client's vector; a batch whose model has other layers too then trains one
        client after another, by plain SGD only.  `None`: where the model has no other layers.
    channels_last: whether images lie in memory with their channels side by side; `None`: as they are.
    compiled: whether the gradients of full batches come through `torch.compile`, which takes seconds to
        minutes when the engine opens; where that fails or comes to another result, `summary` has the reason, and they
        do not.  `None`: they do not; with lanes="auto" they do if the whole run ends sooner.
    device: "cpu", "cuda" or "cuda:N".  On a GPU all that clients work with lies there, the examples too if they fit in
        half of what is free; there are at most as many lanes as fit.
    group: how many clients are summed in float64, in the order of their names, before the exact sum is paid; with 1
        each update is summed exactly, and the bits are those of any tree of relays, at about three times the cost of
        summing.
    precision: of the products in training on a GPU, "float32", "tf32" or "bfloat16" (see `Device`).

    Raises:
        ConfigError: if lanes or group is below 1, or there is no such device or precision here.
    """

    titles: ClassVar[tuple[str, str]] = ("Local", "Lanes of {}")

    def __init__(
        self,
        drift: bool = True,
        lanes: int | Literal["auto"] = 1,
        *,
        low_rank: bool | None = None,
        channels_last: bool | None = None,
        compiled: bool | None = None,
        device: str = "cpu",
        precision: str = "float32",
        group: int = GROUP,
    ) -> None:
        constraints = PlanConstraints(low_rank, channels_last, compiled)
        super().__init__(ExecutionOptions(lanes, drift, constraints, Device.named(device, precision), group=group))

    def ask(self, ask: Ask) -> Answer:
        """Runs one ask on its cohort, in this process."""
        return self.local.answer(ask)
