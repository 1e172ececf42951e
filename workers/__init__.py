"""Where agents run: worker processes, the supervisor that starts and stops them, and scaling."""
