"""What serving a request costs beside link and model, as measured once for our own client and server.

From benchmarks/request_overhead.py (results in benchmarks/results/request_overhead.json): client, gRPC, server and
the emulated link's relay on one machine, requests one at a time, without the model's own time. Framing is what
crosses the wire beside the tensor: HTTP/2 and gRPC frames and the protocol's fields.
"""

from __future__ import annotations

from .plan import Serving

SERVING = Serving(
    fixed_s=2.78e-3,
    per_byte_s=1.2e-9,
    request_framing_bytes=90,
    answer_framing_bytes=95,
    source="benchmarks/results/request_overhead.json",
)
