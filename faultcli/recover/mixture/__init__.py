"""The corrector that finds the classes in a window without labels.

corrector         one Gaussian per class, on the window as it is
gaussians         mixtures fitted to a window
search            from many starts
presence          which classes a window holds, and how much of each
part_naming       names for components where classes may be missing
law               what training learned about how damage moves classes
class_volumes     how much room classes take up, which names them, too
class_distances   how far apart they lie, which tells how many there are
cluster_matching  how damage moves class means, which names clusters
"""
