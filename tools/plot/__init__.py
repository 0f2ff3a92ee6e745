"""Draw the plots of the results files, and of nothing else: they regenerate on any machine.

    python -m tools.plot --help

charts    the five figures
style     colours, markers and labels, the same in all of them
traffic   bytes moved and programs launched, counted in closed form
"""
