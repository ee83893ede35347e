"""Density functional theory as a relaxer: one set of settings, any code."""
