"""Compose, plan, launch, measure, record: everything around a case, nothing inside one."""
