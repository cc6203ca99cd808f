// The first declarations of this module follow.
