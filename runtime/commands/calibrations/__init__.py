"""The steps of ``copgen-edge calibrate``: one file each."""
