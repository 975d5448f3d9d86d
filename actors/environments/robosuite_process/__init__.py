"""The simulator behind `robosuite.RobosuiteEnvironment`, for a Python that has robosuite.

robosuite 1.4.1 needs versions of MuJoCo and NumPy that the rest of this project cannot use. So its
own Python runs this folder, as a part of an actor (`actors.environments.local_door`) or as a
process beside one, and then the two talk over pipes in the language of `messages`:

    PYTHON -I robosuite_process '{"robot": "Panda", ...}'

The modules import the standard library, NumPy, MuJoCo, robosuite and each other, and work with
Python 3.9 to 3.12. Of the rest of this project they use `self_check.py` alone, whose path they are
told. A Python without robosuite can import `messages` and `errors` alone.
"""

ROBOSUITE_VERSION = "1.4.1"
