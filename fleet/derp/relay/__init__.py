"""The development relay: real DERP over TLS and real STUN, for machines without derper.

Run it with `python -m fleet.derp.relay`. It takes the flags of derper that the portal uses, so that either can stand in
for the other. It is not made for many customers at once: production runs derper.
"""
