"""Checks of data against a task, made once before training: targets and loss, inputs and model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from headway.core.errors import ConfigError, DataError, HeadwayError
from headway.data.dataset.blocks import blocks_of
from headway.data.dataset.checks import holder
from headway.data.dataset.client_index import ClientIndex
from headway.data.dataset.examples import Examples
from headway.data.dataset.federated import FederatedData
from headway.model.attributes import Attributes
from headway.model.random_state import GENERATORS, outside_seeded
from headway.model.task import Task
from headway.numerics.keys import Key

_TRIED = 2  # examples that a model is tried on


def check_data(task: Task, data: FederatedData, key: Key) -> tuple[str, ...]:
    """Refuses targets that the loss cannot mean and inputs that the model cannot read; gives notes on what is odd.

    Raises:
        DataError: a target of a binary loss outside 0 to 1, more classes than the model has outputs, or a token beyond
            the model's table.
        ConfigError: whole-number inputs that the model cannot take.
    """
    if task.loss == "binary_cross_entropy":
        _check_binary(data)
    whole = not data.store.inputs.is_floating_point()
    classes = task.loss == "cross_entropy" and not data.store.targets.is_floating_point()
    if not (whole or classes):
        return ()
    module = task.build(key)
    if whole:
        _check_tokens(module, data)
    outputs = _outputs(module, data, whole)
    if classes and outputs is not None and outputs.ndim >= 2:
        return _check_classes(int(outputs.shape[1]), data)
    return ()


def _check_binary(data: FederatedData) -> None:
    for part in _parts(data):
        for start, block in blocks_of(part.targets):
            wrong = (block < 0) | (block > 1)
            if bool(wrong.any()):
                row = start + int(wrong.reshape(len(wrong), -1).any(1).int().argmax())
                value = block[wrong][0].item()
                raise DataError(
                    f'the loss "binary_cross_entropy" needs targets from 0 to 1, but {holder(data, part, row)} has '
                    f"{value:g}; leave out examples without a label, or use "
                    + ('the loss "cross_entropy" for classes.' if data.classes else '"mean_squared_error" for values.')
                )


def _check_classes(outputs: int, data: FederatedData) -> tuple[str, ...]:
    """Refuses fewer outputs than classes; a note where there are more."""
    highest = max(int(part.targets.max()) for part in _parts(data))
    if highest >= outputs:
        name = f" ({data.class_names[highest]!r})" if len(data.class_names) > highest else ""
        raise DataError(
            f'the model has {outputs} output{"s" * (outputs != 1)}, but "cross_entropy" needs one for each class, and '
            f"the data have class {highest}{name}, numbered from 0; give the model {highest + 1} outputs."
        )
    known = data.classes or 0
    if known and outputs > known:
        return (f"the model has {outputs} outputs, and the data {known} classes: the other outputs never are right",)
    return ()


def _check_tokens(module: nn.Module, data: FederatedData) -> None:
    """Refuses a token that a table of the model does not have, where the inputs go to that table as they are."""
    tables: list[nn.Embedding] = []
    given = _tried(data)

    def note(table: nn.Module, inputs: tuple[object, ...]) -> None:
        tokens = inputs[0] if inputs else None
        if isinstance(table, nn.Embedding) and isinstance(tokens, Tensor) and torch.equal(tokens, given):
            tables.append(table)

    hooks = [each.register_forward_pre_hook(note) for each in module.modules() if isinstance(each, nn.Embedding)]
    try:
        _forward(module, given)
    except Exception:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    for table in tables[:1]:
        for part in _parts(data):
            for start, block in blocks_of(part.inputs):
                wrong = (block < 0) | (block >= table.num_embeddings)
                if bool(wrong.any()):
                    row = start + int(wrong.reshape(len(wrong), -1).any(1).int().argmax())
                    raise DataError(
                        f"{holder(data, part, row)} has the token {block[wrong][0].item()}, but the model's table has "
                        f"{table.num_embeddings} entries, 0 to {table.num_embeddings - 1}; make the table larger."
                    )


def _outputs(module: nn.Module, data: FederatedData, whole: bool) -> Tensor | None:
    """The outputs of the model for a few examples; None where it returns no tensor, or fails for another reason."""
    try:
        outputs = _forward(module, _tried(data))
    except HeadwayError:
        raise
    except Exception as error:  # whatever a model of one's own may raise
        if whole:
            raise ConfigError(
                f"the inputs are whole numbers ({data.store.inputs.dtype}), which {type(module).__name__} cannot take: "
                f'{str(error).splitlines()[0] if str(error) else type(error).__name__}. Set data.inputs = "numbers" '
                'to make them floats ("pictures" if they are pixels), or begin the model with an embedding.'
            ) from error
        tried = _tried(data)
        if any(isinstance(each, nn.Embedding) for each in module.modules()) and bool((tried == tried.round()).all()):
            raise ConfigError(
                f"the inputs are floats ({tried.dtype}), but {type(module).__name__} looks them up in a table, which "
                'needs whole numbers: set data.inputs = "tokens" if they are tokens.'
            ) from error
        return None  # the trial of the whole task names what else is wrong
    return outputs if isinstance(outputs, Tensor) else None


def _forward(module: nn.Module, inputs: Tensor) -> object:
    trained, attributes = module.training, Attributes(module)
    module.eval()
    try:
        with torch.no_grad(), GENERATORS, torch.random.fork_rng(devices=[]), outside_seeded(0):
            return module(inputs.clone())
    finally:
        module.train(trained)
        attributes.restore()


def _tried(data: FederatedData) -> Tensor:
    rows = ClientIndex.of(data.train).between(0, 1)[:_TRIED]  # by position: no client is named for it
    return data.store.inputs[rows]


def _parts(data: FederatedData) -> list[Examples]:
    return [part for part in (data.store, data.central) if part is not None]
