// SPDX-License-Identifier: Apache-2.0
package @PACKAGE@

/**
 * One class of a list, best first.
 *
 * @property index its position among the model's outputs.
 * @property label its name, as in `labels.txt`.
 * @property probability the softmax of the logits, 0 to 1.
 */
data class Prediction(val index: Int, val label: String, val probability: Double)
