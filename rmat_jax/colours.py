"""The colours of all figures: colour-blind readers can tell them apart (Okabe and Ito 2008).

May import: nothing.
"""

BLUE = "#0072B2"
LIGHT_BLUE = "#A9CFE5"
VERMILLION = "#D55E00"
ORANGE = "#E69F00"
GREEN = "#009E73"
PURPLE = "#CC79A7"
GREY = "#A0A0A0"
# text, and lines that mark a place
INK = "#333333"
# the grid behind the data
GRID = "#E5E5E5"
