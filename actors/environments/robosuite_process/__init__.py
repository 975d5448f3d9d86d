"""The simulator behind `robosuite.RobosuiteEnvironment`: a program for another Python.

robosuite 1.4.1 needs versions of MuJoCo and NumPy that the rest of this project cannot use. So its
Python runs this folder as a process of its own, and the two talk over pipes in the language of
`messages`:

    PYTHON -I robosuite_process '{"robot": "Panda", ...}'

The modules import the standard library, NumPy, MuJoCo, robosuite and each other by their bare
names, and work with Python 3.9 to 3.12. Of the rest of this project they use `self_check.py` alone,
whose path is one of the arguments. The other side imports `messages` and `errors` alone.
"""
