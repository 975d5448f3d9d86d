"""The whole: configuration, the algorithm that conducts, evaluation, report and command line.

From Python:

    from rl_system.config import load_settings
    settings = load_settings("core/cartpole-swingup/tiny", ["run.seed=1"])
    from rl_system.algorithm import CoReConfig          # an RLlib AlgorithmConfig
    algorithm = CoReConfig.from_settings(settings).build_algo()

From the shell: `rl-system --help`, or `python -m rl_system --help`.
"""

__version__ = "0.1.0"
