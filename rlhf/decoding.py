"""Rows of a decode batch, with their keys and values, and when they come and go.

Every row begins at column 0 of its slot in a preallocated cache, so the column of a token is its position and what
lies behind a row's last token is masked. A finished row is replaced by the last row of the batch, a waiting prompt is
read into the slots behind it: nothing but these rows is ever copied, and no forward pass has a row without work.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from rlhf.models.roles import SharedBase
from rlhf.tensors import pad_left, pad_right, positions_from_mask

# Reading prompts has a fixed cost, an empty place has one per step; measured on a CPU, flat between 1/8 and 1/3.
REFILL_SHARE = 0.2
# Dropping rows from a growing cache copies it; below this share of finished rows that costs more than it saves.
COMPACT_SHARE = 0.125
# Asking an accelerator who has finished makes it wait; rows that finished in between take part for nothing.
CHECK_EVERY = 8

Choose = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
InStep = Callable[[bool], bool]


class Trunk:
    """The base below its output layer; the only place where decoding runs it.

    Sharded weights make each pass a collective. With `in_step` all processes run equally many: each call of it comes
    before one pass, and who has finished keeps passing a single token until nobody is busy.
    """

    def __init__(self, shared: SharedBase, in_step: InStep | None = None) -> None:
        self._model = shared.model
        self._in_step = in_step
        self.device = shared.device
        self.config = shared.model.config

    def hidden(self, ids: Int[Tensor, "batch sequence"], **options: Any) -> Float[Tensor, "batch sequence hidden"]:
        """Return last hidden states."""
        if self._in_step is not None:
            self._in_step(True)
        return self._model.base_model(input_ids=ids, **options).last_hidden_state

    def logits(self, hidden: Float[Tensor, "batch hidden"]) -> Float[Tensor, "batch vocabulary"]:
        """Apply the output layer."""
        return self._model.get_output_embeddings()(hidden).float()

    def wait(self) -> None:
        """Keep the other processes company until all have finished."""
        while self._in_step is not None and self._in_step(False):
            ids = torch.zeros((1, 1), dtype=torch.long, device=self.device)
            self.logits(self._model.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, -1])


class Rows(Protocol):
    """Rows that are being decoded, numbered 0 to n - 1."""

    refills: bool
    compact_share: float

    def admit(self, prompts: Sequence[list[int]]) -> Float[Tensor, "batch hidden"]:
        """Read prompts into new rows at the end; return the last hidden state of each."""
        ...

    def extend(self, tokens: Int[Tensor, " batch"], positions: Int[Tensor, " batch"]) -> Float[Tensor, "batch hidden"]:
        """Append one token to each row; return its hidden state."""
        ...

    def keep(self, order: Sequence[int]) -> None:
        """Make row i what row `order[i]` was, and forget the others."""
        ...


def make_rows(trunk: Trunk, batch_size: int, capacity: int) -> Rows:
    """Return rows with slots where every layer attends to all that came before, growing rows for other models.

    Args:
        trunk: The base.
        batch_size: Most rows at a time.
        capacity: Most tokens in a row.
    """
    layers = DynamicCache(config=trunk.config).layers
    if layers and all(type(layer) is DynamicLayer for layer in layers):
        return SlotRows(trunk, len(layers), batch_size, capacity)
    return GrowingRows(trunk)


class _SlotLayer(DynamicLayer):
    """Keys and values of one layer: a preallocated tensor, of which a pass writes and reads a part."""

    def __init__(self, slots: "SlotRows") -> None:
        super().__init__()
        self._slots = slots

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        slots = self._slots
        if self.keys is None or self.values is None:
            self.keys, self.values = (slots.allocate(states) for states in (key_states, value_states))
            self.is_initialized = True
        if slots.columns is None:
            first, width = slots.count, key_states.shape[2]
            self.keys[first : first + len(slots.sources), :, :width] = key_states[slots.sources]
            self.values[first : first + len(slots.sources), :, :width] = value_states[slots.sources]
            return key_states, value_states
        self.keys[slots.numbers[: slots.count], :, slots.columns] = key_states[:, :, 0]
        self.values[slots.numbers[: slots.count], :, slots.columns] = value_states[:, :, 0]
        return self.keys[: slots.count, :, : slots.width], self.values[: slots.count, :, : slots.width]

    def get_seq_length(self) -> int:
        # What lies before the tokens of this pass; masks are as long as both together.
        return 0 if self._slots.columns is None else self._slots.width - 1

    def move(self, targets: Tensor, origins: Tensor, width: int) -> None:
        """Copy rows onto others."""
        assert self.keys is not None
        assert self.values is not None
        self.keys[targets, :, :width] = self.keys[origins, :, :width]
        self.values[targets, :, :width] = self.values[origins, :, :width]


class SlotRows:
    """Rows in slots of a preallocated cache.

    Attributes:
        width: Columns that a decoding pass reads.
        columns: Column that a decoding pass writes in each row; None while prompts are read.
        numbers: The numbers of all slots.
        sources: For each new row, which of the prompts that are being read is its own.
    """

    refills = True
    compact_share = 0.0

    def __init__(self, trunk: Trunk, layers: int, batch_size: int, capacity: int) -> None:
        self._trunk = trunk
        self._size, self._capacity = batch_size, capacity
        self._layers = [_SlotLayer(self) for _ in range(layers)]
        self._cache = Cache(layers=self._layers)  # pyright: ignore[reportArgumentType]
        self._lengths: list[int] = []  # of each row: an upper bound, since rows may have finished unnoticed
        self.width = 0
        self.columns: Int[Tensor, " batch"] | None = None
        self.numbers = torch.arange(batch_size, device=trunk.device)
        self.sources = torch.zeros(0, dtype=torch.long, device=trunk.device)

    @property
    def count(self) -> int:
        """Rows in use: the first slots."""
        return len(self._lengths)

    def allocate(self, states: Tensor) -> Tensor:
        """Return zeros for all slots: what is masked must still be a number."""
        return states.new_zeros((self._size, states.shape[1], self._capacity, states.shape[3]))

    def admit(self, prompts: Sequence[list[int]]) -> Float[Tensor, "batch hidden"]:
        """Read prompts, each distinct one once, into the next slots.

        They are padded on the right, where causal attention never looks; the responses overwrite it.
        """
        device = self._trunk.device
        distinct = {tuple(prompt): None for prompt in prompts}
        place = {prompt: index for index, prompt in enumerate(distinct)}
        self.sources = torch.tensor([place[tuple(prompt)] for prompt in prompts], device=device)
        self.columns = None
        ids = pad_right(list(distinct), 0, torch.long).to(device)
        positions = torch.arange(ids.shape[1], device=device).expand_as(ids)
        hidden = self._trunk.hidden(ids, position_ids=positions, past_key_values=self._cache, use_cache=True)
        self._lengths += map(len, prompts)
        last = torch.tensor([len(prompt) - 1 for prompt in distinct], device=device)
        return hidden[torch.arange(len(last), device=device), last][self.sources]

    def extend(self, tokens: Int[Tensor, " batch"], positions: Int[Tensor, " batch"]) -> Float[Tensor, "batch hidden"]:
        """Append one token to each row; return its hidden state."""
        self._lengths = [min(length + 1, self._capacity) for length in self._lengths]
        self.columns, self.width = positions, max(self._lengths)
        mask = torch.arange(self.width, device=positions.device)[None, :] <= positions[:, None]
        return self._trunk.hidden(
            tokens[:, None],
            attention_mask=mask.long(),
            position_ids=positions[:, None],
            past_key_values=self._cache,
            use_cache=True,
        )[:, -1]

    def keep(self, order: Sequence[int]) -> None:
        """Make row i what row `order[i]` was, by copying only the rows that move."""
        moves = [(target, origin) for target, origin in enumerate(order) if target != origin]
        self._lengths = [self._lengths[origin] for origin in order]
        if moves:
            targets, origins = torch.tensor(moves, device=self._trunk.device).T
            width = max(self._lengths)
            for layer in self._layers:
                layer.move(targets, origins, width)


class GrowingRows:
    """Rows in a cache that grows by a column with every token, padded on the left; new ones only when all are gone.

    For models with sliding windows, recurrent layers and the like, whose caches know one length for all rows.
    """

    refills = False
    compact_share = COMPACT_SHARE

    def __init__(self, trunk: Trunk) -> None:
        self._trunk = trunk

    def admit(self, prompts: Sequence[list[int]]) -> Float[Tensor, "batch hidden"]:
        """Read prompts into a new cache."""
        ids = pad_left(prompts, 0).to(self._trunk.device)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=ids.device)
        self._mask = torch.arange(ids.shape[1], device=ids.device)[None, :] >= ids.shape[1] - lengths[:, None]
        self._cache = DynamicCache(config=self._trunk.config)
        return self._pass(ids, positions_from_mask(self._mask))

    def extend(self, tokens: Int[Tensor, " batch"], positions: Int[Tensor, " batch"]) -> Float[Tensor, "batch hidden"]:
        """Append one token to each row; return its hidden state."""
        self._mask = torch.nn.functional.pad(self._mask, (0, 1), value=True)
        return self._pass(tokens[:, None], positions[:, None])

    def keep(self, order: Sequence[int]) -> None:
        """Make row i what row `order[i]` was, by copying the cache."""
        kept = torch.tensor(order, dtype=torch.long, device=self._mask.device)
        self._cache.batch_select_indices(kept)
        self._mask = self._mask[kept]

    def _pass(self, ids: Int[Tensor, "batch sequence"], positions: Int[Tensor, "batch sequence"]) -> Tensor:
        return self._trunk.hidden(
            ids,
            attention_mask=self._mask.long(),
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        )[:, -1]


class Decoder:
    """Tables of all episodes on the device, and which of them are in the batch.

    A row that has finished and is still in the batch repeats its last token and writes where nobody reads.
    """

    def __init__(
        self,
        trunk: Trunk,
        prompts: Sequence[list[int]],
        uniforms: Float[Tensor, "episodes tokens"],
        ends: Sequence[int],
    ) -> None:
        count, self._limit = uniforms.shape
        device = trunk.device
        self._trunk, self._prompts = trunk, prompts
        self._ends = torch.tensor(ends, device=device)
        self._check_every = 1 if device.type == "cpu" else CHECK_EVERY
        self._prompt_lengths = torch.tensor([len(prompt) for prompt in prompts], dtype=torch.long, device=device)
        # One more column than tokens, for rows that have finished at the limit.
        self._draws = torch.nn.functional.pad(uniforms.to(device), (0, 1))
        self._tokens = torch.zeros((count, self._limit + 1), dtype=torch.long, device=device)
        self._scores = torch.zeros((count, self._limit + 1), device=device)
        self._lengths = torch.zeros(count, dtype=torch.long, device=device)
        self._alive = torch.ones(count, dtype=torch.bool, device=device)
        self._batch = torch.zeros(0, dtype=torch.long, device=device)  # the episode of each row

    def run(self, batch_size: int, choose: Choose) -> tuple[list[list[int]], list[list[float]]]:
        """Decode all episodes, at most `batch_size` at a time, in their order.

        Returns:
            Tokens and logprobs of each.
        """
        rows = make_rows(self._trunk, min(batch_size, len(self._prompts)), self._capacity())
        waiting = deque(range(len(self._prompts)))
        group = max(1, int(REFILL_SHARE * batch_size))
        passes = 0
        while waiting or len(self._batch):
            free = batch_size - len(self._batch)
            if waiting and (len(self._batch) == 0 or (rows.refills and free >= min(group, len(waiting)))):
                numbers = [waiting.popleft() for _ in range(min(free, len(waiting)))]
                fresh = torch.tensor(numbers, device=self._trunk.device)
                self._batch = torch.cat([self._batch, fresh])
                self._record(fresh, rows.admit([self._prompts[number] for number in numbers]), choose)
            else:
                batch, steps = self._batch, self._lengths[self._batch]
                hidden = rows.extend(self._tokens[batch, steps - 1], self._prompt_lengths[batch] + steps - 1)
                self._record(batch, hidden, choose)
            passes += 1
            if passes % self._check_every == 0:
                self._drop(rows)
        ends = self._lengths.tolist()
        return (
            [row[:end] for row, end in zip(self._tokens.tolist(), ends, strict=True)],
            [row[:end] for row, end in zip(self._scores.tolist(), ends, strict=True)],
        )

    def _capacity(self) -> int:
        return max(map(len, self._prompts), default=0) + self._limit

    def _record(self, episodes: Int[Tensor, " batch"], hidden: Float[Tensor, "batch hidden"], choose: Choose) -> None:
        steps, alive = self._lengths[episodes], self._alive[episodes]
        tokens, logprobs = choose(self._trunk.logits(hidden), self._draws[episodes, steps])
        self._tokens[episodes, steps] = tokens
        self._scores[episodes, steps] = logprobs
        steps = steps + alive
        self._lengths[episodes] = steps
        self._alive[episodes] = alive & ~torch.isin(tokens, self._ends) & (steps < self._limit)

    def _drop(self, rows: Rows) -> None:
        """Let finished rows leave: the last rows of the batch take their places."""
        alive: list[bool] = self._alive[self._batch].tolist()
        kept = sum(alive)
        dropped = len(alive) - kept
        if dropped == 0 or (kept > 0 and dropped < rows.compact_share * len(alive)):
            return
        movers = iter(row for row in range(kept, len(alive)) if alive[row])
        order = [row if alive[row] else next(movers) for row in range(kept)]
        rows.keep(order)
        self._batch = self._batch[torch.tensor(order, dtype=torch.long, device=self._batch.device)]
