from numadam.rules.adam import Adam as Adam
from numadam.rules.adam import adam_update as adam_update
from numadam.rules.rmsprop import RMSprop as RMSprop
from numadam.rules.rmsprop import rmsprop_update as rmsprop_update
from numadam.rules.sgd import SGD as SGD
from numadam.rules.sgd import sgd_update as sgd_update

__version__: str
__all__: list[str]
