"""A simulated year of syncs over odd billing periods: in which period is usage billed?"""
