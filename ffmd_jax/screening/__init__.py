"""Many molecules: from SMILES to force-free runs, conformers and a table of them."""
