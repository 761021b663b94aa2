//! Pure: from a verdict, route facts and policy to a plan, and the safety check that can refuse any plan.
