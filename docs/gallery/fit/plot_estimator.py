r"""
Fit mean and scatter: an estimator for scikit-learn
===================================================

A linear regression predicts a mean. Often the scatter around it matters as
much, and it is not the same for everybody. This estimator predicts both.
Its likelihood and gradient are a few lines of NumPy, numadam does the fit,
and scikit-learn does the rest: pipelines, cross-validation, searches. It
passes ``check_estimator``.

Progression of diabetes in 442 patients: each was predicted by a model that
had not seen this patient. Nine of ten should lie inside the band.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import norm
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted, validate_data

import numadam as na

# %%
# The model and its gradient
# --------------------------
# The mean and the logarithm of the scatter are both linear in the features:
#
# .. math::
#    y \sim \mathcal{N}(\mu, \sigma^2), \qquad
#    \mu = x \cdot a + a_0, \qquad
#    \log\,\sigma = x \cdot b + b_0
#
# The fit minimises the negative log-likelihood of the data plus a penalty:
# half of ``alpha`` times the squares of :math:`a` and :math:`b`.


def negative_log_likelihood(w, X, y, alpha):
    """Mean over the rows, without its constant, and its gradient.

    Row 0 of w holds a and a0, row 1 holds b and b0.
    """
    mean, log_scatter = w[:, :-1] @ X.T + w[:, -1:]
    precision = np.exp(-log_scatter)
    r = (y - mean) * precision
    f = np.mean(log_scatter + 0.5 * r**2)
    slopes = np.stack([-r * precision, 1 - r**2]) / len(y)
    g = np.column_stack([slopes @ X, slopes.sum(axis=1)])
    g[:, :-1] += alpha * w[:, :-1]
    return f + 0.5 * alpha * np.sum(w[:, :-1] ** 2), g


# %%
# The estimator
# -------------
# scikit-learn asks for this: ``__init__`` only stores its arguments;
# ``fit`` sets attributes that end in ``_`` and returns ``self``;
# ``validate_data`` reads X and y.
#
# Internally y is scaled to mean 0 and variance 1, so that one learning rate
# suits all data. The learning rate decays to 0, so that the same data
# always give the same numbers, up to rounding.


class ScatterRegressor(RegressorMixin, BaseEstimator):
    """Linear regression of the mean and of the logarithm of the scatter."""

    def __init__(self, alpha=0.01, lr=0.05, max_iter=500):
        self.alpha = alpha
        self.lr = lr
        self.max_iter = max_iter

    def fit(self, X, y):
        """Fit both to X of shape (n, features) and y of shape (n,)."""
        X, y = validate_data(self, X, y, y_numeric=True, dtype=np.float64)
        self.centre_, self.unit_ = y.mean(), y.std() or 1.0
        res = na.minimize(
            negative_log_likelihood,
            np.zeros((2, X.shape[1] + 1)),
            (X, (y - self.centre_) / self.unit_, self.alpha),
            jac=True,
            lr=na.schedules.Cosine(self.lr, steps=self.max_iter),
            maxiter=self.max_iter,
        )
        self.coef_, self.n_iter_ = res.x, res.nit
        return self

    def predict(self, X, return_std=False):
        """The mean of each row; with `return_std` also its scatter."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float64)
        mean, log_scatter = self.coef_[:, :-1] @ X.T + self.coef_[:, -1:]
        mean = self.centre_ + self.unit_ * mean
        if return_std:
            return mean, self.unit_ * np.exp(log_scatter)
        return mean


# %%
# Does scikit-learn accept it?
# ----------------------------
# scikit-learn's own checks fit the estimator some hundred times: to lists
# and DataFrames, one feature, one row, NaN, read-only memory, and so on.
checks = check_estimator(ScatterRegressor(), on_skip=None)
passed = [check["status"] for check in checks].count("passed")
print(f"{passed} of {len(checks)} checks passed")
for check in checks:
    if check["status"] != "passed":
        print(f"{check['status']}: {check['check_name']}")

# %%
# In a pipeline and a search
# --------------------------
# The data come with scikit-learn: ten measurements of each patient, such as
# age, blood pressure and body mass index, and the progression of diabetes a
# year later (Efron et al., "Least Angle Regression", Annals of Statistics
# 32, 2004). ``GridSearchCV`` chooses ``alpha`` by the likelihood of
# patients that were left out. An outer cross-validation repeats this search
# five times, and each time predicts a fifth of the patients that the search
# has not seen.
X, y = load_diabetes(return_X_y=True, scaled=False)


def log_likelihood(model, X, y):
    """Mean over the rows: a score for searches, higher is better."""
    return norm.logpdf(y, *model.predict(X, return_std=True)).mean()


pipeline = make_pipeline(StandardScaler(), ScatterRegressor())
search = GridSearchCV(
    pipeline,
    {"scatterregressor__alpha": [0.001, 0.01, 0.1, 0.3, 1.0]},
    scoring=log_likelihood,
)
plain = LinearRegression()
ours, usual = np.empty((2, len(y))), np.empty((2, len(y)))
for train, test in KFold(5, shuffle=True, random_state=0).split(X):
    search.fit(X[train], y[train])
    ours[:, test] = search.best_estimator_.predict(X[test], return_std=True)
    plain.fit(X[train], y[train])
    usual[0, test] = plain.predict(X[test])
    usual[1, test] = np.std(y[train] - plain.predict(X[train]))
    print(search.best_params_)

# %%
# The band of a patient is the predicted mean and 1.645 times the predicted
# scatter on both sides, for 90 %.
WIDE = norm.ppf(0.95)
inside = abs(y - ours[0]) < WIDE * ours[1]

fig, axes = plt.subplots(figsize=(6.5, 4.5), layout="constrained")
axes.vlines(
    ours[0],
    ours[0] - WIDE * ours[1],
    ours[0] + WIDE * ours[1],
    color="#c6dbef",
    label="90 % band of each patient",
)
axes.plot(ours[0], ours[0], ".", ms=3, color="#2171b5", label="mean")
for where, colour, name in [
    (inside, "0.4", "inside"),
    (~inside, "#d94801", "outside"),
]:
    axes.plot(ours[0][where], y[where], ".", color=colour, label=name)
axes.set(
    title=f"442 patients, {inside.mean():.0%} inside their band",
    xlabel="predicted progression (score)",
    ylabel="progression after a year (score)",
)
axes.legend(frameon=False, loc="upper left")
plt.show()

# %%
# Is it better than one scatter for all?
# --------------------------------------
# The patients are divided into four groups of equal size, by predicted
# progression. A linear regression with the same scatter for all is right on
# average, but its band is too wide where little progression is predicted,
# and too narrow where much is.
fig, axes = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
for name, (mean, scatter), colour in [
    ("one scatter for all", usual, "#d94801"),
    ("a scatter for each", ours, "#2171b5"),
]:
    group = np.digitize(mean, np.quantile(mean, [0.25, 0.5, 0.75]))
    hit = abs(y - mean) < WIDE * scatter
    share = [100 * hit[group == k].mean() for k in range(4)]
    axes.plot(range(1, 5), share, "o-", color=colour, label=name)
    likelihood = norm.logpdf(y, mean, scatter).mean()
    print(f"{name}: log-likelihood {likelihood:.3f} a patient,", end=" ")
    print(f"R2 {1 - np.mean((y - mean) ** 2) / y.var():.3f}")
axes.axhline(90, color="k", lw=0.8, ls=":")
axes.set(
    title="share of patients inside their 90 % band",
    xlabel="quarter of the patients, by predicted progression",
    ylabel="inside the band (%)",
    xticks=range(1, 5),
)
axes.legend(frameon=False)
plt.show()

# %%
# It is slightly better: the likelihood of the patients is higher, and three
# of the four groups are closer to 90 %. The means are as good as before. A
# group has 110 patients, so its share is only known to within 3 %.
#
# In short: anything with a likelihood and a gradient in NumPy becomes an
# estimator in some forty lines, and works with all tools of scikit-learn.
