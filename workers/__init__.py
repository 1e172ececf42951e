"""Where agents live: worker processes, the supervisor that keeps them, and scaling."""
