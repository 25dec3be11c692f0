"""NCSN and NCSNv2: Song & Ermon 2019 and 2020."""
