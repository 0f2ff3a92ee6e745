"""Draw the plots of the results files, and two pictures of what the emulator does: they regenerate on any machine.

    python -m tools.plot --help

charts    the five figures of the results
traffic   bytes moved and programs launched, counted in closed form
hardware  the two pictures of the emulator, `banks` and `fragments`
style     colours, markers and labels, the same in all of them
"""
