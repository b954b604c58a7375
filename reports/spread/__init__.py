"""One protocol on several machines: how far they lie apart."""
