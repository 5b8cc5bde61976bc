"""python -m data.scenes OUT, see data/scenes/make.py."""

from data.scenes.make import main
from utils.config import run_script

run_script(main)
