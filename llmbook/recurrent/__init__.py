"""Recurrent networks: RNN, LSTM and GRU, cell by cell and layer by layer.

- `rnn_cell`, `lstm_cell`, `gru_cell`: one step, as the formula is printed (cells.py);
- `RNN`, `LSTM`, `GRU`: layers equal to torch.nn's, batch first unless told otherwise, with a
  readable and a fast backend (layers.py);
- `linear_scan`, `linear_loop`: a linear recurrence in few parallel rounds, and one step at a time
  (scan.py).
"""

from llmbook.recurrent.cells import gru_cell, lstm_cell, rnn_cell
from llmbook.recurrent.layers import GRU, LSTM, RNN
from llmbook.recurrent.scan import Scan, linear_loop, linear_scan

__all__ = [
    "RNN",
    "LSTM",
    "GRU",
    "rnn_cell",
    "lstm_cell",
    "gru_cell",
    "Scan",
    "linear_scan",
    "linear_loop",
]
