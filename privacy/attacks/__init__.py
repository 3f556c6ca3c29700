"""Attackers on what is sent: each is trained on noisy messages with fresh noise, and judged on unseen items."""
