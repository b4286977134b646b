"""From the policy's action chunk to motion: `trajectory` (chunk <-> wire), `limits` (the safety gate), `chunk_queue`
(what is due now).
"""
