__version__ = "0.1.0"

# before any other module, since most begin with torch: what torch reads while it is loaded is set there
from .base.process import set_surroundings as set_surroundings
