"""Numbers of the model's mathematics.

They live in a module of their own because TorchScript reads ``constants.NAME``, but
not a constant of the file it compiles.
"""

# keeps cot(pi s) finite at both ends, where the bump is 0 or 1 to machine precision
BUMP_MARGIN = 1e-6
# keeps the gradient of |r| finite; below float32 resolution of any real distance
SMALL_SQUARE = 1e-15
# a neighbour at the very cutoff keeps this weight, so that its logarithm is finite
MIN_CUTOFF_FACTOR = 1e-15

# an adaptive radius never falls below this fraction of the largest cutoff
MIN_ADAPTIVE_FRACTION = 1.0 / 16.0
# of the root search: metatrain's ten halvings or Newton steps from R/2; then Newton
# steps have to halve each other or the bracket is halved, which ends before the limit
N_FREE_SOLVER_STEPS = 10
N_SOLVER_STEPS = 100
# a radius is found when a step is shorter than this fraction of R: the last, implicit
# step squares what is left. Below float32's rounding of the count in the second case
SOLVED_FLOAT64 = 1e-9
SOLVED_FLOAT32 = 1e-5
# keeps a Newton step finite where no neighbour lies in the fade-out
MIN_SLOPE = 1e-6
# the grid scheme tries radii from here upwards, so many per fade-out width
GRID_START = 0.5
GRID_STEPS_PER_WIDTH = 4.0
# keeps the grid scheme's weights finite where the count is flat along the grid
MIN_GRID_SLOPE = 1e-12

# e^2 / (4 pi eps0) in eV Å
COULOMB = 14.399645478425668
# screening length (Å) and exponent of Ziegler, Biersack, Littmark (1985), as in LAMMPS
SCREENING_LENGTH = 0.46850
SCREENING_POWER = 0.23
