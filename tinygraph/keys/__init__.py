"""Keys: what a call means, as bytes that are the same in every process: its code, and its arguments.

::

    function ──► source ──► fingerprint ─┐
    values ────► canonical ──────────────┴──► the key of a call
"""
