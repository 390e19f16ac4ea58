# Written by `python tests/generate.py`: do not edit.
from numadam.nopython.adabelief import adabelief_element as adabelief_element
from numadam.nopython.adabelief import adabelief_scalars as adabelief_scalars
from numadam.nopython.adabelief import adabelief_update as adabelief_update
from numadam.nopython.adagrad import adagrad_element as adagrad_element
from numadam.nopython.adagrad import adagrad_scalars as adagrad_scalars
from numadam.nopython.adagrad import adagrad_update as adagrad_update
from numadam.nopython.adam import adam_element as adam_element
from numadam.nopython.adam import adam_scalars as adam_scalars
from numadam.nopython.adam import adam_update as adam_update
from numadam.nopython.adamax import adamax_element as adamax_element
from numadam.nopython.adamax import adamax_scalars as adamax_scalars
from numadam.nopython.adamax import adamax_update as adamax_update
from numadam.nopython.adamw import adamw_element as adamw_element
from numadam.nopython.adamw import adamw_scalars as adamw_scalars
from numadam.nopython.adamw import adamw_update as adamw_update
from numadam.nopython.core import VERSION as VERSION
from numadam.nopython.lion import lion_element as lion_element
from numadam.nopython.lion import lion_scalars as lion_scalars
from numadam.nopython.lion import lion_update as lion_update
from numadam.nopython.nadam import nadam_element as nadam_element
from numadam.nopython.nadam import nadam_product as nadam_product
from numadam.nopython.nadam import nadam_scalars as nadam_scalars
from numadam.nopython.nadam import nadam_update as nadam_update
from numadam.nopython.radam import radam_element as radam_element
from numadam.nopython.radam import radam_scalars as radam_scalars
from numadam.nopython.radam import radam_update as radam_update
from numadam.nopython.rmsprop import rmsprop_element as rmsprop_element
from numadam.nopython.rmsprop import rmsprop_scalars as rmsprop_scalars
from numadam.nopython.rmsprop import rmsprop_update as rmsprop_update
from numadam.nopython.sgd import sgd_element as sgd_element
from numadam.nopython.sgd import sgd_scalars as sgd_scalars
from numadam.nopython.sgd import sgd_update as sgd_update

__all__: list[str]
