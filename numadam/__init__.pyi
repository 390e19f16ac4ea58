# Written by `python tests/generate.py`: do not edit.
from numadam import mpi as mpi
from numadam import nopython as nopython
from numadam import schedules as schedules
from numadam._arrays.sparse import Rows as Rows
from numadam._checkpoint.storage import CheckpointError as CheckpointError
from numadam._jit.reports import CacheWarning as CacheWarning
from numadam._minimize.gradient.check import GradientCheck as GradientCheck
from numadam._minimize.gradient.check import check_grad as check_grad
from numadam._minimize.minimize import minimize as minimize
from numadam._minimize.minimize import scipy_adam as scipy_adam
from numadam._minimize.minimize_many import minimize_many as minimize_many
from numadam._minimize.result import ManyResult as ManyResult
from numadam._minimize.result import Result as Result
from numadam._optimizer.optimizer import Optimizer as Optimizer
from numadam.history.history import History as History
from numadam.rules._load import load as load
from numadam.rules.adabelief import AdaBelief as AdaBelief
from numadam.rules.adabelief import adabelief_update as adabelief_update
from numadam.rules.adagrad import Adagrad as Adagrad
from numadam.rules.adagrad import adagrad_update as adagrad_update
from numadam.rules.adam import Adam as Adam
from numadam.rules.adam import adam_update as adam_update
from numadam.rules.adamax import AdaMax as AdaMax
from numadam.rules.adamax import adamax_update as adamax_update
from numadam.rules.adamw import AdamW as AdamW
from numadam.rules.adamw import adamw_update as adamw_update
from numadam.rules.lion import Lion as Lion
from numadam.rules.lion import lion_update as lion_update
from numadam.rules.nadam import NAdam as NAdam
from numadam.rules.nadam import nadam_update as nadam_update
from numadam.rules.radam import RAdam as RAdam
from numadam.rules.radam import radam_update as radam_update
from numadam.rules.rmsprop import RMSprop as RMSprop
from numadam.rules.rmsprop import rmsprop_update as rmsprop_update
from numadam.rules.sgd import SGD as SGD
from numadam.rules.sgd import sgd_update as sgd_update

__version__: str
__all__: list[str]
