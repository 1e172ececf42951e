"""What needs nothing but Python: the pure core, and guards over the source itself."""
