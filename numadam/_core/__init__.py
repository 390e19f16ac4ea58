"""The computation of one step: rules, options, plan and scalars, for any device."""
