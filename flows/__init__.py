"""Prefect flows: the same path for one study or all of them, scheduled and watched."""
